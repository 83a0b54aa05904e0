# Raw corpora → documents → tokenizer → indexed datasets.


rule fetch_source:
    output:
        manifest=campaign.manifest("fetch"),
    log:
        campaign.log("fetch"),
    priority: campaign.priority("fetch")
    resources:
        **campaign.resources("fetch"),
    shell:
        campaign.command("fetch")


rule train_tokenizer:
    input:
        campaign.inputs("tokenizer"),
    output:
        manifest=campaign.manifest("tokenizer"),
    log:
        campaign.log("tokenizer"),
    priority: campaign.priority("tokenizer")
    resources:
        **campaign.resources("tokenizer"),
    shell:
        campaign.command("tokenizer")


rule tokenize_shard:
    input:
        campaign.inputs("tokenize"),
    output:
        manifest=campaign.manifest("tokenize"),
    log:
        campaign.log("tokenize"),
    priority: campaign.priority("tokenize")
    resources:
        **campaign.resources("tokenize"),
    shell:
        campaign.command("tokenize")


rule fit_baselines:
    input:
        campaign.inputs("baselines"),
    output:
        manifest=campaign.manifest("baselines"),
    log:
        campaign.log("baselines"),
    priority: campaign.priority("baselines")
    resources:
        **campaign.resources("baselines"),
    shell:
        campaign.command("baselines")
