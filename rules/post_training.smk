# Records → conversations → packed windows → a model that answers → its answers to what was held out.


rule make_conversations:
    output:
        manifest=campaign.manifest("conversations"),
    log:
        campaign.log("conversations"),
    priority: campaign.priority("conversations")
    resources:
        **campaign.resources("conversations"),
    shell:
        campaign.command("conversations")


rule pack_conversations:
    input:
        campaign.inputs("pack"),
    output:
        manifest=campaign.manifest("pack"),
    log:
        campaign.log("pack"),
    priority: campaign.priority("pack")
    resources:
        **campaign.resources("pack"),
    shell:
        campaign.command("pack")


rule fine_tune_model:
    input:
        campaign.inputs("sft"),
    output:
        manifest=campaign.manifest("sft"),
    log:
        campaign.log("sft"),
    priority: campaign.priority("sft")
    resources:
        **campaign.resources("sft"),
    shell:
        campaign.command("sft")


rule average_models:
    input:
        campaign.inputs("average"),
    output:
        manifest=campaign.manifest("average"),
    log:
        campaign.log("average"),
    priority: campaign.priority("average")
    resources:
        **campaign.resources("average"),
    shell:
        campaign.command("average")


rule answer_questions:
    input:
        campaign.inputs("answers"),
    output:
        manifest=campaign.manifest("answers"),
    log:
        campaign.log("answers"),
    priority: campaign.priority("answers")
    resources:
        **campaign.resources("answers"),
    shell:
        campaign.command("answers")
