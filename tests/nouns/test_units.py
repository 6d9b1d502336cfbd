"""Addresses parse and print the same, and what is wrong is refused with the near names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.units import FIXED_POINTS, LAYER_POINTS, Site, Unit, Units, parse_site, parse_unit

SITES = st.one_of(
    st.builds(Site, st.sampled_from(sorted(LAYER_POINTS)), st.integers(0, 99)),
    st.builds(Site, st.sampled_from(sorted(FIXED_POINTS))),
    st.builds(
        lambda path, io: Site(path, io=io),
        st.sampled_from(["lm_head", "model.layers.3.mlp"]),
        st.sampled_from(["in", "out"]),
    ),
    st.builds(lambda layer: Site("resid_post", layer, "my-sae"), st.integers(0, 9)),
)


@given(SITES)
def test_sites_parse_as_they_print(site):
    assert parse_site(str(site)) == site


@given(st.dictionaries(SITES, st.one_of(st.none(), st.sets(st.integers(0, 5000), min_size=1)), min_size=1))
def test_units_parse_as_they_print_and_as_json(members):
    units = Units(members)
    assert Units.parse(str(units)) == units
    assert Units.parse(units.to_json()) == units


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("blocks.5.hook_resid_pre", "resid_pre.5"),
        ("blocks.5.hook_mlp_out", "mlp_out_post.5"),
        ("blocks.5.mlp.hook_out", "mlp_out.5"),
        ("blocks.5.mlp.hook_post", "mlp_act.5"),
        ("blocks.5.attn.hook_z", "z.5"),
        ("blocks.5.attn.hook_pattern", "attn_probs.5"),
        ("blocks.5.attn.hook_result", "head.5"),
        ("blocks.5.hook_attn_out", "attn_out_post.5"),
        ("hook_embed", "embeddings"),
        ("layers_output[5]", "resid_post.5"),
    ],
)
def test_aliases_are_printed_as_ours(theirs, ours):
    assert str(parse_site(theirs)) == ours


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mlp_akt.3", "did you mean mlp_act"),
        ("resid.3", "resid_pre.3, resid_mid.3, resid_post.3"),
        ("mlp_act", "mlp_act.*"),
        ("logits.3", "write logits"),
        ("blocks.1.ln1.hook_normalized", "does not translate exactly"),
        ("blocks.1.hook_mlp_in", "resid_mid"),
        ("mlp_act.3[x]", "not a unit's index"),
        ("mlp_act.3[]", "not a unit's index"),
        ("mlp_act.3/", "dictionary's name"),
    ],
)
def test_bad_addresses_are_refused_with_the_way_out(text, says):
    with pytest.raises(PatchclampError, match=".") as caught:
        Units.parse(text)
    assert says in str(caught.value)


def test_empty_selections_and_other_types_are_refused():
    with pytest.raises(PatchclampError, match="selects no unit"):
        Units.parse([])
    with pytest.raises(PatchclampError, match="not an address"):
        Units.parse(3)
    with pytest.raises(PatchclampError, match="whole site"):
        parse_unit("mlp_act.3")


def test_units_merge_sort_and_count():
    units = Units.parse(["head.5[3]", Unit(Site("head", 5), 1), "mlp_act.2[10:13]", "mlp_out.2"])
    assert units.to_json() == ["mlp_act.2[10,11,12]", "mlp_out.2", "head.5[1,3]"]
    assert units.count == 6
    assert [str(u) for u in units.each()][-1] == "head.5[3]"


def test_a_mapping_of_sites_to_indices_is_read_with_its_indices():
    assert Units.parse({"mlp_act.3": [5, 1], Site("head", 2): None}) == Units.parse("head.2, mlp_act.3[1,5]")
