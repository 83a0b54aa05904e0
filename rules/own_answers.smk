# Answers to training questions → the best of them, or pairs of right and wrong ones → models that learn from these.


rule roll_out_answers:
    input:
        campaign.inputs("rollouts"),
    output:
        manifest=campaign.manifest("rollouts"),
    log:
        campaign.log("rollouts"),
    priority: campaign.priority("rollouts")
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
    priority: campaign.priority("selection")
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
    priority: campaign.priority("offline")
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
    priority: campaign.priority("pairs")
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
    priority: campaign.priority("preference")
    resources:
        **campaign.resources("preference"),
    shell:
        campaign.command("preference")
