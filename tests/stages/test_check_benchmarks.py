"""`data check` on the published benchmarks: the layout, split and protocol each is taken for."""

import pytest
from support import benchmark_trees as trees

IN_BOTH = "tested on in the protocols of MVSS-Net and CAT-Net (IMDL-BenCo)"
TAKEN_AS = {
    "casia1": (trees.write_casia1, f"split test; {IN_BOTH}"),
    "casia2": (
        trees.write_casia2,
        "split train; trained on in the protocols of MVSS-Net and CAT-Net (IMDL-BenCo)",
    ),
    "columbia": (trees.write_columbia, f"split test; {IN_BOTH}"),
    "coverage": (trees.write_coverage, f"split test; {IN_BOTH}"),
    "nist16": (trees.write_nist16, f"split test; {IN_BOTH}"),
    "imd2020": (
        trees.write_imd2020,
        "split all; tested on in MVSS-Net's protocol, trained on in CAT-Net's (IMDL-BenCo)",
    ),
    "cocoglide": (trees.write_cocoglide, "split test; tested on in TruFor's evaluation"),
    "defacto": (trees.write_defacto, "split all"),
    "tgif": (
        trees.write_tgif,
        "split test, train, valid; training, validation and testing as published",
    ),
    "sagi-d": (trees.write_sagi_d, "split test, train, valid; train, val and test as published"),
}


@pytest.mark.parametrize("layout", TAKEN_AS)
def test_each_is_taken_for_what_it_is(program, layout, tmp_path):
    write, taken_as = TAKEN_AS[layout]
    outcome = program("data", "check", write(tmp_path / "downloaded"))
    lines = outcome.out.splitlines()
    assert outcome.code == 0, outcome
    assert lines[0].startswith(f"downloaded: layout {layout}, ")
    assert lines[0].endswith(f"as in layout {layout}")
    assert lines[1] == f"taken as: {taken_as}"
    assert lines[-1] == "ok: no problem found"
    is_compared = layout not in ("columbia", "defacto")  # whose names say no original
    assert ("note: no fake could be compared" in outcome.out) is not is_compared


def test_masks_of_another_size_and_names_without_a_partner_are_said(program, refused, tmp_path):
    root = trees.write_casia2(tmp_path / "CASIA2", other_sizes=2)
    outcome = program("data", "check", root)
    assert outcome.code == 1
    assert "problem: 2 images (Tp/Tp_D_CRN_S_N_cha00006_nat30106_11824.jpg" in outcome.out
    assert "resize these masks, or leave them out as failures with --max-failures 2" in outcome.out
    note = "note: no valid split, which a training needs; draw it from train with --assign-splits"
    assert f"{note} 95,5,0" in outcome.out
    wrong = root / "Tp/Tp_D_CRN_S_N_cha00000_nat30100_11818.jpg"
    wrong.rename(wrong.with_name("Tp_D_CRN_S_N_cha00000_nat30100_99999.jpg"))
    line = refused("extract", root, "--arch", "efficientnet-lite0", "--cache", tmp_path / "cache")
    assert line.startswith(f"{root} holds 1 image (Tp/Tp_D_CRN_S_N_cha00000_nat30100_99999.jpg) ")
    assert "the mask of Tp_NAME.jpg is Tp_NAME_gt.png, pass --allow-unpaired" in line
