# Initial weights → milestones of continued pretraining, each a checkpoint one can branch from.


rule initialize_model:
    output:
        manifest=campaign.manifest("initialize"),
    log:
        campaign.log("initialize"),
    priority: campaign.priority("initialize")
    resources:
        **campaign.resources("initialize"),
    shell:
        campaign.command("initialize")


rule pretrain_model:
    input:
        campaign.inputs("pretrain"),
    output:
        manifest=campaign.manifest("pretrain"),
    log:
        campaign.log("pretrain"),
    priority: campaign.priority("pretrain")
    resources:
        **campaign.resources("pretrain"),
    shell:
        campaign.command("pretrain")
