"""What sinfo, scontrol and sacctmgr say, read from recorded answers."""

import pytest

from athanor.cluster.commands import Answer
from athanor.cluster.inventory import ClusterSilent, parse_limit, parse_sinfo, take_inventory

from .recorded import CONFIG, NO_ACCOUNTING, USER, Recorded, inventory, slurm


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("infinite", None), ("n/a", None), ("30:00", 30), ("0:30", 1), ("4:00:00", 240), ("2-00:00:00", 2880), ("1-12", 2160)],
)
def test_time_limit_in_minutes(text: str, minutes: int | None) -> None:
    assert parse_limit(text) == minutes


def test_partition_has_the_kinds_of_its_nodes() -> None:
    gpu = inventory().partitions["gpu"]
    assert (gpu.nodes, gpu.usable_nodes, gpu.gpus_per_node, gpu.limit_minutes, gpu.available) == (4, 3, 8, 2880, "up")
    assert (gpu.kinds[0].gpu_type, gpu.kinds[0].memory_mb, gpu.kinds[0].cpus) == ("h100", 1_031_000, 96)
    assert inventory().partitions["broken"].usable_nodes == 0


@pytest.mark.parametrize(
    ("gres", "gpus", "kind"),
    [
        ("(null)", 0, ""),
        ("gpu:8", 8, ""),
        ("gpu:a100:4,gpu:h100:4", 8, "a100+h100"),
        ("gpu:a100_1g.5gb:7(S:0)", 7, "a100_1g.5gb"),
        ("nvme:1", 0, ""),
    ],
)
def test_gpus_of_a_node_by_its_gres(gres: str, gpus: int, kind: str) -> None:
    (node,) = parse_sinfo(f"p|up|infinite|1|64|1000|{gres}|idle\n")["p"].kinds
    assert (node.gpus, node.gpu_type) == (gpus, kind)


def test_default_partition_is_the_one_with_the_star() -> None:
    found = inventory()
    assert found.default_partition is not None and found.default_partition.name == "cpu"
    assert found.partition("") is found.default_partition
    assert found.partition("nope") is None


def test_associations_are_the_users_on_this_cluster() -> None:
    ask = slurm()
    found = take_inventory(ask, USER)
    assert [(a.account, a.partition, sorted(a.qos)) for a in found.associations or ()] == [
        ("mygroup", "", ["long", "normal"]),
        ("special", "gpu", ["normal"]),
    ]
    assert any("user=ada cluster=mini" in words for words in ask.asked)


@pytest.mark.parametrize(
    ("config", "enforced"),
    [
        (CONFIG, {"associations", "limits", "qos"}),
        (CONFIG.replace("associations,limits,qos", "none"), set()),
        (CONFIG.replace("associations,limits,qos", "all"), {"associations", "limits", "qos"}),
        (CONFIG.replace("associations,limits,qos", "(null)"), set()),
    ],
)
def test_what_accounting_enforces(config: str, enforced: set[str]) -> None:
    assert inventory(slurm(config)).enforced == enforced


def test_cluster_without_accounts_has_none_to_offer() -> None:
    found = inventory(slurm(NO_ACCOUNTING))
    assert (found.associations, found.why_no_associations) == (None, "it keeps no accounts")


def test_silent_controller_is_named_by_its_own_words() -> None:
    silent = Answer(1, "", "slurm_load_partitions: Unable to contact slurm controller (connect failure)\n")
    with pytest.raises(ClusterSilent, match="Unable to contact slurm controller"):
        take_inventory(Recorded({"sinfo": silent, "scontrol": Answer(0, CONFIG)}), USER)
