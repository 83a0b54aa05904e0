# Training questions → how often a model of the search answers each right → what is learnt of each level.


rule ask_training_questions:
    input:
        campaign.inputs("labels"),
    output:
        manifest=campaign.manifest("labels"),
    log:
        campaign.log("labels"),
    priority: campaign.priority("labels")
    resources:
        **campaign.resources("labels"),
    shell:
        campaign.command("labels")


rule curate_conversations:
    input:
        campaign.inputs("curation"),
    output:
        manifest=campaign.manifest("curation"),
    log:
        campaign.log("curation"),
    priority: campaign.priority("curation")
    resources:
        **campaign.resources("curation"),
    shell:
        campaign.command("curation")
