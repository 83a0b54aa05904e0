# Problems of the task registry → a pool of prompts → models that learn from rewards of their own answers.


rule make_problems:
    output:
        manifest=campaign.manifest("problems"),
    log:
        campaign.log("problems"),
    priority: campaign.priority("problems")
    resources:
        **campaign.resources("problems"),
    shell:
        campaign.command("problems")


rule choose_prompts:
    input:
        campaign.inputs("pool"),
    output:
        manifest=campaign.manifest("pool"),
    log:
        campaign.log("pool"),
    priority: campaign.priority("pool")
    resources:
        **campaign.resources("pool"),
    shell:
        campaign.command("pool")


rule learn_online:
    input:
        campaign.inputs("online"),
    output:
        manifest=campaign.manifest("online"),
    log:
        campaign.log("online"),
    priority: campaign.priority("online")
    resources:
        **campaign.resources("online"),
    shell:
        campaign.command("online")
