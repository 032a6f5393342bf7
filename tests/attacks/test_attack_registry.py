"""Names, parameters and registration of attacks."""

import sys
from importlib import metadata
from importlib.metadata import EntryPoint
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mimir_jax import attacks
from mimir_jax.arrays import TokenStats, pad_documents
from mimir_jax.attacks import ATTACKS, DEFAULT, INPUTS, Attack, AttackError, parse
from mimir_jax.attacks.parameters import Share
from mimir_jax.attacks.registry import ENTRY_POINTS

ONE = TokenStats(
    np.arange(4, dtype=np.int32),
    *(np.array([0, -1, -2, -3], np.float32) for _ in range(2)),
    np.ones(4, np.float32),
    np.zeros(4, np.float32),
    np.ones(4, np.int32),
    np.array([False, True, True, True]),
)
STATS = pad_documents([ONE])


def test_the_table_is_complete():
    assert list(ATTACKS) == [row.name for row in ATTACKS.values()]
    for row in ATTACKS.values():
        assert set(row.inputs) <= set(INPUTS)
        assert row.inputs == ("stats",) * ("stats" in row.inputs) + tuple(x for x in row.inputs if x != "stats")
        assert "arXiv:" in row.citation
    exported = {getattr(attacks, name) for name in attacks.__all__ if name.islower() and name != "parse"}
    assert {row.function for row in ATTACKS.values()} == exported
    # Each input is one that some attack takes.
    assert {name for row in ATTACKS.values() for name in row.inputs} == set(INPUTS)
    assert [row.name for row in ATTACKS.values() if row.joint] == ["em_mia", "lira", "lira_online"]


def test_what_an_api_suffices_for():
    names = """loss zlib min_k ref ref_ratio ref-mean lowercase recall con_recall ne ne_z dc_pdd pac wbc quantile"""
    assert {row.name for row in ATTACKS.values() if row.log_prob_only} == set(names.split())


def test_default_attacks_need_one_plain_pass():
    names = "loss zlib min_k min_k++ max_norm rank log_rank entropy surp"
    assert list(DEFAULT) == names.split()


@pytest.mark.parametrize("name", ATTACKS)
def test_a_bare_name_has_the_defaults_of_the_signature(name):
    bound = parse(name)
    assert bound.name == name
    assert bound.attack is ATTACKS[name]
    assert bound.parameters == ATTACKS[name].parameters


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("min_k@k=0.1,window=3,stride=2", "min_k@k=0.1,window=3,stride=2"),
        ("min_k@stride=2,window=3,k=1e-1", "min_k@k=0.1,window=3,stride=2"),
        (" min_k @ window = 3 ", "min_k@window=3"),
        ("min_k@k=0.20,window=1", "min_k"),
        ("min_k@k=1", "min_k@k=1.0"),
        ("min_k++@k=0.05", "min_k++@k=0.05"),
        ("surp@max_entropy=inf", "surp@max_entropy=inf"),
        ("gradnorm@p=inf", "gradnorm"),
        ("gradnorm@p=1", "gradnorm@p=1"),
        ("gradnorm@p=2.0", "gradnorm@p=2"),
        ("samia@zlib=0", "samia"),
        ("quantile@alpha=.01", "quantile@alpha=0.01"),
        ("con_recall@gamma=0", "con_recall@gamma=0.0"),
        ("ref-mean", "ref-mean"),
    ],
)
def test_specs_of_one_computation_have_one_name(spec, name):
    bound = parse(spec)
    assert bound.name == name
    assert parse(bound.name) == bound
    assert hash(parse(bound.name)) == hash(bound)


def test_parameters_are_all_there_with_their_types():
    parameters = parse("min_k@window=3").parameters
    assert parameters == {"k": 0.2, "window": 3, "stride": 1}
    assert [type(value) for value in parameters.values()] == [float, int, int]
    assert list(parse("min_k@stride=2,k=0.1").parameters) == ["k", "window", "stride"]


def test_a_bound_attack_computes_with_its_parameters():
    bound = parse("min_k@k=0.5,window=2")
    expected = attacks.min_k(STATS, k=0.5, window=2)
    assert expected == -2.5
    assert bound(STATS) == expected
    assert jax.jit(bound)(STATS) == expected


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("mink", "min_k"),
        ("Loss", "loss"),
        ("min_k_plus_plus", r"min_k\+\+"),
        ("ref_ration", "ref_ratio"),
        ("entropy_", "entropy"),
        ("ref_mean", "ref-mean"),
        ("con-recall", "con_recall"),
    ],
)
def test_an_unknown_name_lists_the_known_ones_and_the_nearest(name, nearest):
    with pytest.raises(AttackError, match=rf"unknown attack '{name}'; did you mean {nearest}\?") as caught:
        parse(name)
    assert ", ".join(ATTACKS) in str(caught.value)


@pytest.mark.parametrize("spec", ["", "@k=1", "12345"])
def test_a_name_like_no_other_lists_the_known_ones(spec):
    with pytest.raises(AttackError, match=r"unknown attack '\w*' \(known: loss, zlib, "):
        parse(spec)


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("min_k@q=1", r"unknown parameter 'q' \(parameters of min_k: k=0.2, window=1, stride=1\)"),
        ("loss@k=0.1", r"unknown parameter 'k' \(parameters of loss: none\)"),
        ("max_norm@token_counts=1", "unknown parameter 'token_counts'"),
        ("min_k@", "'' is not of the form name=value"),
        ("min_k@0.1", "'0.1' is not of the form name=value"),
        ("min_k@k=0.1,", "'' is not of the form name=value"),
        ("min_k@k=", "k must be a number, got ''"),
        ("min_k@k=small", "k must be a number, got 'small'"),
        ("min_k@window=2.5", "window must be a whole number, got '2.5'"),
        ("min_k@k=0.1,k=0.1", "k is given twice"),
        ("min_k@k=2", r"k must be above 0 and at most 1, got 2.0"),
        ("min_k@k=nan", r"k must be above 0 and at most 1, got nan"),
        ("min_k@window=0", "window must be above 0, got 0"),
        ("surp@max_entropy=-1", "max_entropy must be above 0, got -1.0"),
        ("gradnorm@p=3", r"p must be one of 1, 2, inf, got 3.0 \(parameters of gradnorm: p=inf\)"),
        ("gradnorm@p=nan", "p must be one of 1, 2, inf, got nan"),
        ("samia@zlib=2", "zlib must be one of 0, 1, got 2"),
        ("samia@zlib=0.5", "zlib must be a whole number, got '0.5'"),
        ("quantile@alpha=0.005", "alpha must be at least 0.01 and at most 0.1, got 0.005"),
        ("quantile@alpha=0.11", "alpha must be at least 0.01 and at most 0.1, got 0.11"),
        ("con_recall@gamma=-1", "gamma must be at least 0, got -1.0"),
        ("ne@n=0", "n must be above 0, got 0"),
        ("em_mia@iterations=0", "iterations must be above 0, got 0"),
    ],
)
def test_bad_parameters(spec, problem):
    with pytest.raises(AttackError, match=f"^{spec}: {problem}"):
        parse(spec)


def test_rows_are_checked():
    def function(stats, k: Share = 0.1):
        return stats.log_prob.mean(-1) * k

    def without_default(stats, k):
        return stats.log_prob.mean(-1) * k

    def needs_more(stats, zlib_bytes):
        return stats.log_prob.mean(-1) / zlib_bytes

    def wordy(stats, how="mean"):
        return getattr(stats.log_prob, how)(-1)

    def leaves_out(stats, zlib_bytes=None, k: Share = 0.1):
        return stats.log_prob.mean(-1) * k

    assert Attack("fine", function, ("stats",), "").parameters == {"k": 0.1}
    assert Attack("fine-x", leaves_out, ("stats",), "").parameters == {"k": 0.1}
    assert Attack("fine++", leaves_out, ("stats", "zlib_bytes"), "").parameters == {"k": 0.1}
    for name in ("Ref", "-ref", "ref@x", "ref x", ""):
        with pytest.raises(AttackError, match=f"'{name}': an attack's name"):
            Attack(name, function, ("stats",), "")
    with pytest.raises(AttackError, match=r"x: the function takes \(stats, .*not first \('zlib_bytes',\)"):
        Attack("x", function, ("zlib_bytes",), "")
    for bad, parameter in ((without_default, "k"), (needs_more, "zlib_bytes"), (wordy, "how")):
        with pytest.raises(AttackError, match=f"x: parameter {parameter} has no default that is a number"):
            Attack("x", bad, ("stats",), "")


# --- Attacks of other packages


def shortest(stats: TokenStats, k: Share = 0.5):
    return -jnp.sum(jnp.asarray(stats.mask), axis=-1, dtype=jnp.float32) * k


@pytest.fixture
def register(monkeypatch):
    """Make entry points of `name -> object in the module other_package`."""
    module = ModuleType("other_package")
    monkeypatch.setitem(sys.modules, "other_package", module)
    registered = []

    others = metadata.entry_points

    def entry_points(**selection):  # jax looks for plugins when it starts
        return registered if selection.get("group") == ENTRY_POINTS else others(**selection)

    monkeypatch.setattr("importlib.metadata.entry_points", entry_points)

    def register(name, **objects):
        vars(module).update(objects)
        registered.append(EntryPoint(name, f"other_package:{next(iter(objects), 'MISSING')}", ENTRY_POINTS))

    return register


def test_a_registered_attack_is_parsed_like_ours(register):
    register("shortest", ROW=Attack("shortest", shortest, ("stats",), ""))
    bound = parse("shortest@k=2e-1")
    assert bound.name == "shortest@k=0.2"
    np.testing.assert_allclose(bound(STATS), [-0.6])
    with pytest.raises(AttackError, match=r"did you mean shortest\?.*, shortest\)"):
        parse("shorted")
    with pytest.raises(AttackError, match="k must be above 0 and at most 1"):
        parse("shortest@k=3")


def test_registered_attacks_are_loaded_only_when_asked_for(register):
    register("broken")
    assert parse("loss").name == "loss"
    with pytest.raises(AttackError, match="attack broken, registered as other_package:MISSING, cannot be loaded"):
        parse("broken")


def test_what_is_registered_must_be_an_attack_of_that_name(register):
    register("bare", bare=shortest)
    register("renamed", ROW=Attack("shortest", shortest, ("stats",), ""))
    with pytest.raises(AttackError, match="bare, registered as other_package:bare, is a function, not an Attack"):
        parse("bare")
    with pytest.raises(AttackError, match="renamed, registered as other_package:ROW, calls itself shortest"):
        parse("renamed")


def test_a_registered_attack_can_ask_for_known_inputs_only(register):
    def of_logits(stats, logits):
        return stats.log_prob.sum(-1) + logits.sum()

    # Attacks of this package that are in another table, such as those of compat/mimir, bring inputs of their own.
    row = Attack("of_logits", of_logits, ("stats", "logits"), "")
    register("of_logits", ROW=row)
    message = r"of_logits, registered as other_package:ROW, asks for unknown inputs \['logits'\]; known are stats, "
    with pytest.raises(AttackError, match=message):
        parse("of_logits")


@pytest.mark.parametrize("asked", ["loss", "min_k"])
def test_a_name_of_ours_cannot_be_registered_again(register, asked):
    register("loss", ROW=Attack("loss", shortest, ("stats",), ""))
    with pytest.raises(AttackError, match="loss is registered twice: by mimir_jax and by other_package:ROW"):
        parse(asked)


def test_two_packages_cannot_register_one_name(register):
    register("shortest", ROW=Attack("shortest", shortest, ("stats",), ""))
    register("shortest", OTHER=None)
    with pytest.raises(AttackError, match="by other_package:ROW and by other_package:OTHER"):
        parse("shortest")
