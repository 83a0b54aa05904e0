"""Whole workflows of others, unchanged: every kind of rule finds its way."""

from __future__ import annotations

from .drivers import Checkout

TUTORIAL = """
SAMPLES = ["A", "B"]

rule all:
    input: "plots/quals.txt"

rule map_reads:
    input: genome="data/genome.fa", reads="data/samples/{sample}.fastq"
    output: temp("mapped/{sample}.sam")
    params: group=lambda wildcards: f"@RG ID:{wildcards.sample}"
    log: "logs/map/{sample}.log"
    threads: 2
    shell: "(echo '{params.group}'; cat {input.genome} {input.reads}) > {output} 2> {log}"

rule sort_reads:
    input: "mapped/{sample}.sam"
    output: protected("sorted/{sample}.bam")
    shell: "echo sorting {wildcards.sample}; sort {input} > {output}"

rule count_reads:
    input: expand("sorted/{sample}.bam", sample=SAMPLES)
    output: "counts/all.txt"
    benchmark: "benchmarks/count.tsv"
    shell: "wc -l {input} > {output}"

rule plot_quals:
    input: "counts/all.txt"
    output: "plots/quals.txt"
    params: title="Qualities"
    script: "scripts/plot.py"
"""

SCATTER = """
rule all:
    input: "collected.txt"

checkpoint scatter:
    output: directory("parts")
    shell: "mkdir {output} && for i in 1 2 3; do echo $i > {output}/$i.txt; done"

rule square:
    input: "parts/{i}.txt"
    output: "squares/{i}.txt"
    shadow: "minimal"
    script: "square.py"

def squares(wildcards):
    folder = checkpoints.scatter.get().output[0]
    return expand("squares/{i}.txt", i=glob_wildcards(folder + "/{i}.txt").i)

rule collect:
    input: squares
    output: "collected.txt"
    group: "end"
    shell: "cat {input} | sort -n > {output}"
"""

GATHER = """
scattergather:
    split=3

rule all:
    input: "total.txt"

rule scatter:
    output: scatter.split("split/{scatteritem}.txt")
    shell: "for part in {output}; do echo $part > $part; done"

rule work:
    input: "split/{scatteritem}.txt"
    output: "worked/{scatteritem}.txt"
    retries: 2
    resources: mem_mb=lambda wildcards, attempt: 100 * attempt
    shell:
        "echo {resources.mem_mb} >> tries-{wildcards.scatteritem}; "
        "[ {resources.mem_mb} -ge 200 ] && cp {input} {output}"

rule gather:
    input: gather.split("worked/{scatteritem}.txt")
    output: temp("gathered.txt")
    group: "end"
    shell: "cat {input} > {output}"

rule total:
    input: "gathered.txt"
    output: "total.txt"
    group: "end"
    shell: "wc -l < {input} > {output}"
"""


def test_workflow_of_the_tutorial_runs_unchanged(checkout: Checkout) -> None:
    checkout.write(TUTORIAL)
    checkout.write("CG\n", "data/genome.fa")
    for sample in "AB":
        checkout.write(f"read {sample}\n", f"data/samples/{sample}.fastq")
    checkout.write(
        "open(snakemake.output[0], 'w').write(snakemake.params.title + open(snakemake.input[0]).read())\n", "scripts/plot.py"
    )
    checkout.run_well()
    assert (checkout.folder / "plots/quals.txt").read_text().startswith("Qualities")
    assert checkout.lines("sorted/A.bam") == ["@RG ID:A", "CG", "read A"]
    assert not (checkout.folder / "mapped/A.sam").exists()
    assert (checkout.folder / "benchmarks/count.tsv").exists()


def test_workflow_with_checkpoint_shadow_script_and_group_runs_unchanged(checkout: Checkout) -> None:
    checkout.write(SCATTER)
    square = "print(int(open(snakemake.input[0]).read()) ** 2, file=open(snakemake.output[0], 'w'))\n"
    checkout.write(square, "square.py")
    checkout.run_well()
    assert checkout.lines("collected.txt") == ["1", "4", "9"]


def test_workflow_with_scatter_gather_retries_and_a_group_of_two_runs_unchanged(checkout: Checkout) -> None:
    checkout.write(GATHER)
    checkout.run_well()
    assert checkout.lines("total.txt") == ["3"]
    for part in ("1-of-3", "2-of-3", "3-of-3"):
        assert checkout.lines(f"tries-{part}") == ["100", "200"]


def test_workflow_that_is_done_has_nothing_left_to_do(checkout: Checkout) -> None:
    checkout.write("""
        rule a:
            output: "a.txt"
            shell: "echo ran >> runs.txt; touch {output}"
    """)
    checkout.run_well()
    checkout.run_well()
    assert len(checkout.lines("runs.txt")) == 1
    checkout.run_well("--forceall")
    assert len(checkout.lines("runs.txt")) == 2
    assert [attempt.number for attempt in checkout.attempts()] == [1, 2]
