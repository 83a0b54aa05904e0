# Records → conversations → packed windows → a model that answers → its answers to what was held out.


rule make_conversations:
    output:
        manifest=campaign.manifest("conversations"),
    log:
        campaign.log("conversations"),
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
    resources:
        **campaign.resources("answers"),
    shell:
        campaign.command("answers")


rule roll_out_answers:
    input:
        campaign.inputs("rollouts"),
    output:
        manifest=campaign.manifest("rollouts"),
    log:
        campaign.log("rollouts"),
    resources:
        **campaign.resources("rollouts"),
    shell:
        campaign.command("rollouts")


rule select_answers:
    input:
        campaign.inputs("selection"),
    output:
        manifest=campaign.manifest("selection"),
    log:
        campaign.log("selection"),
    resources:
        **campaign.resources("selection"),
    shell:
        campaign.command("selection")


rule learn_offline:
    input:
        campaign.inputs("offline"),
    output:
        manifest=campaign.manifest("offline"),
    log:
        campaign.log("offline"),
    resources:
        **campaign.resources("offline"),
    shell:
        campaign.command("offline")


rule pair_answers:
    input:
        campaign.inputs("pairs"),
    output:
        manifest=campaign.manifest("pairs"),
    log:
        campaign.log("pairs"),
    resources:
        **campaign.resources("pairs"),
    shell:
        campaign.command("pairs")


rule learn_preferences:
    input:
        campaign.inputs("preference"),
    output:
        manifest=campaign.manifest("preference"),
    log:
        campaign.log("preference"),
    resources:
        **campaign.resources("preference"),
    shell:
        campaign.command("preference")
