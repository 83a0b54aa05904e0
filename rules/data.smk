# Raw corpora → documents → tokenizer → indexed datasets.


rule fetch_source:
    output:
        campaign.manifest("fetch"),
    log:
        campaign.log("fetch"),
    resources:
        **campaign.resources("fetch"),
    shell:
        campaign.command("fetch")


rule train_tokenizer:
    input:
        campaign.inputs("tokenizer"),
    output:
        campaign.manifest("tokenizer"),
    log:
        campaign.log("tokenizer"),
    resources:
        **campaign.resources("tokenizer"),
    shell:
        campaign.command("tokenizer")


rule tokenize_shard:
    input:
        campaign.inputs("tokenize"),
    output:
        campaign.manifest("tokenize"),
    log:
        campaign.log("tokenize"),
    resources:
        **campaign.resources("tokenize"),
    shell:
        campaign.command("tokenize")


rule fit_baselines:
    input:
        campaign.inputs("baselines"),
    output:
        campaign.manifest("baselines"),
    log:
        campaign.log("baselines"),
    resources:
        **campaign.resources("baselines"),
    shell:
        campaign.command("baselines")
