# Checkpoint → Hugging Face folder → scores → figures.


rule export_model:
    input:
        campaign.inputs("export"),
    output:
        manifest=campaign.manifest("export"),
    log:
        campaign.log("export"),
    priority: campaign.priority("export")
    resources:
        **campaign.resources("export"),
    shell:
        campaign.command("export")


rule evaluate_model:
    input:
        campaign.inputs("evaluate"),
    output:
        manifest=campaign.manifest("evaluate"),
    log:
        campaign.log("evaluate"),
    priority: campaign.priority("evaluate")
    resources:
        **campaign.resources("evaluate"),
    shell:
        campaign.command("evaluate")


rule write_report:
    input:
        campaign.inputs("report"),
    output:
        manifest=campaign.manifest("report"),
        loss=report(
            campaign.beside("report", "figures/loss.svg"),
            category="Pretraining",
            labels={"figure": "loss and learning rate"},
        ),
        validation=report(
            campaign.beside("report", "figures/validation.svg"),
            category="Pretraining",
            labels={"figure": "validation loss by domain"},
        ),
        scores=report(
            campaign.beside("report", "figures/scores.svg"),
            category="Evaluation",
            labels={"figure": "scores beside chance and untrained"},
        ),
        summary=report(
            campaign.beside("report", "summary.html"),
            category="Summary",
            labels={"figure": "key numbers"},
        ),
    log:
        campaign.log("report"),
    priority: campaign.priority("report")
    resources:
        **campaign.resources("report"),
    shell:
        campaign.command("report")
