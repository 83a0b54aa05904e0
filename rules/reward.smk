# Texts of many policies → triples → a reward model; answers → ranks → the same, fine-tuned; its scores of answers.


rule write_trajectories:
    input:
        campaign.inputs("trajectories"),
    output:
        manifest=campaign.manifest("trajectories"),
    log:
        campaign.log("trajectories"),
    priority: campaign.priority("trajectories")
    resources:
        **campaign.resources("trajectories"),
    shell:
        campaign.command("trajectories")


rule make_triples:
    input:
        campaign.inputs("triples"),
    output:
        manifest=campaign.manifest("triples"),
    log:
        campaign.log("triples"),
    priority: campaign.priority("triples")
    resources:
        **campaign.resources("triples"),
    shell:
        campaign.command("triples")


rule keep_backbone:
    output:
        manifest=campaign.manifest("backbone"),
    log:
        campaign.log("backbone"),
    priority: campaign.priority("backbone")
    resources:
        **campaign.resources("backbone"),
    shell:
        campaign.command("backbone")


rule pretrain_reward_model:
    input:
        campaign.inputs("reward_pretrain"),
    output:
        manifest=campaign.manifest("reward_pretrain"),
    log:
        campaign.log("reward_pretrain"),
    priority: campaign.priority("reward_pretrain")
    resources:
        **campaign.resources("reward_pretrain"),
    shell:
        campaign.command("reward_pretrain")


rule rank_answers:
    input:
        campaign.inputs("ranks"),
    output:
        manifest=campaign.manifest("ranks"),
    log:
        campaign.log("ranks"),
    priority: campaign.priority("ranks")
    resources:
        **campaign.resources("ranks"),
    shell:
        campaign.command("ranks")


rule fine_tune_reward_model:
    input:
        campaign.inputs("reward_tune"),
    output:
        manifest=campaign.manifest("reward_tune"),
    log:
        campaign.log("reward_tune"),
    priority: campaign.priority("reward_tune")
    resources:
        **campaign.resources("reward_tune"),
    shell:
        campaign.command("reward_tune")


rule score_answers:
    input:
        campaign.inputs("score"),
    output:
        manifest=campaign.manifest("score"),
    log:
        campaign.log("score"),
    priority: campaign.priority("score")
    resources:
        **campaign.resources("score"),
    shell:
        campaign.command("score")
