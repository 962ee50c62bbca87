"""Lines of means: each with its interval, images without a fake pixel in a line apart."""

from dataclasses import replace

from support.made_evaluation import config_of, localized

from declip_pipeline.evaluation.cells import seed_groups
from stages.figures_texts import evaluation_lines, remark_lacking, seeds_title


def test_a_line_has_the_intervals_and_real_images_have_their_own():
    assert evaluation_lines([localized("ldm", ldm=[40.0, 60.0, None])]) == [
        "  ldm: IoU 50.00 [40.0, 60.0], F1 50.00 [50.0, 50.0], F1 (TruFor) 25.00 [20.0, 30.0], "
        "F1 best (TruFor) 50.00 [40.0, 60.0], AP 75.00 [75.0, 75.0], AUC 50.00 [50.0, 50.0], "
        "IoU at valid's threshold 50.00 [40.0, 60.0], IoU without small regions 50.00 "
        "[40.0, 60.0] (2 images)",
        "  ldm, left out of the means: 1 image without a fake pixel, of which 20.00% of pixels "
        "are called fake at 0.5 (mean score 0.1000)",
    ]


def test_what_is_not_there_is_not_shown():
    lines = evaluation_lines([localized("ldm", lama=[40.0], ldm=[None])])
    assert lines[0] == (
        "  lama: IoU 40.00, F1 50.00, F1 (TruFor) 20.00, F1 best (TruFor) 40.00, AP 75.00, "
        "AUC 50.00, IoU at valid's threshold 40.00, IoU without small regions 40.00 (1 image)"
    )
    assert lines[1] == "  ldm: no image with a fake pixel"
    assert [line.split(",")[0].split(":")[0].strip() for line in lines[2:]] == [
        *("ldm", "overall", "overall")
    ]


def test_over_seeds_the_spread_stands_beside_the_mean():
    runs = [localized("ldm", seed, ldm=[iou, iou]) for seed, iou in enumerate((49.0, 51.0))]
    (line,) = evaluation_lines(runs, ["iou", "f1_best"])
    assert line == (
        "  ldm: IoU 50.00 ± 1.41 [40.8, 59.2], F1 best (TruFor) 50.00 ± 1.41 [40.8, 59.2] "
        "(2 images)"
    )


def test_blocks_of_seeds_are_titled_by_what_differs():
    """Three learning rates had three blocks with one title."""
    runs = [
        localized("ldm", config=config_of("ldm", seed, learning_rate=rate), ldm=[1.0])
        for rate in (1e-3, 1e-2)
        for seed in (0, 1)
    ]
    assert [seeds_title(group, "test") for group in seed_groups(runs)] == [
        "ldm, learning_rate 0.001 on set, test, over 2 seeds (0, 1)",
        "ldm, learning_rate 0.01 on set, test, over 2 seeds (0, 1)",
    ]


def test_false_alarms_stand_behind_the_means():
    one = localized("ldm", ldm=[40.0, 60.0])
    shares = [0.0, 0.002, 0.5, 0.0]
    real = localized("ldm", real=[None] * 4).table
    place = real.column_names.index("fake_share")
    two = [replace(one, real=real.set_column(place, "fake_share", [shares]))] * 2
    lines = evaluation_lines(two[:1])
    assert lines[1] == (
        "  false alarms on real images at 0.5: 12.55% [0.00, 37.50] of pixels, "
        "50.00% [0.00, 100.00] of images, 25.00% [0.00, 75.00] with more than 1% of their pixels "
        "(4 images)"
    )
    assert lines[2].startswith(
        "  false alarms on real images at valid's threshold: 30.00% [30.00, 30.00] of pixels, "
    )
    assert lines[3].startswith(
        "  false alarms on real images without small regions: 10.00% [10.00, 10.00] of pixels, "
    )
    assert "12.55% ± 0.00 [" in evaluation_lines(two)[1]
    assert len(evaluation_lines([one])) == 1
    # A run that keeps no threshold of `valid` has no line at it.
    place = real.column_names.index("fake_share_valid_threshold")
    none = real.set_column(place, "fake_share_valid_threshold", [[float("nan")] * 4])
    lines = evaluation_lines([replace(one, real=none)])
    assert "false alarms" in lines[1] and "valid's threshold" not in "".join(lines[1:])


def test_named_metrics_are_shown_in_their_order_in_percent():
    (line,) = evaluation_lines([localized("ldm", ldm=[40.0])], ["mcc", "iou_pooled", "f1_pooled"])
    assert line == "  ldm: MCC 50.00, IoU pooled 40.00, F1 pooled 57.14 (1 image)"


def test_metrics_without_values_are_said(capsys):
    one = localized("ldm", ldm=[40.0, 60.0])
    place = one.table.column_names.index("iou_min_region")
    nan = [[float("nan")] * 2]
    remark_lacking(
        replace(one, table=one.table.set_column(place, "iou_min_region", nan)),
        ["iou", "iou_min_region", "iou_pooled"],
    )
    text = " ".join(capsys.readouterr().err.split())
    assert f"{one.run.name}: no values of iou_min_region, for which a training keeps what" in text
    remark_lacking(one, ["iou", "iou_min_region"])
    assert not capsys.readouterr().err


def test_images_without_an_auc_are_counted():
    one = localized("ldm", ldm=[40.0, 60.0])
    place = one.table.column_names.index("auc")
    nan = float("nan")
    some = replace(one, table=one.table.set_column(place, "auc", [[nan, 0.5]]))
    assert evaluation_lines([some])[1] == "  ldm, left out of AUC: 1 image without a real pixel"
    assert len(evaluation_lines([some], ["iou"])) == 1
    none = replace(one, table=one.table.set_column(place, "auc", [[nan, nan]]))
    first, second = evaluation_lines([none])
    assert "AUC" not in first and second.endswith("AUC: 2 images without a real pixel")


def test_whole_images_and_verdicts_stand_behind_false_alarms():
    run = localized(
        "ldm", ldm=[40.0, 60.0], scores=[0.4, 0.9], real_scores=[0.6, 0.1], threshold=0.3
    )
    lines = evaluation_lines([run])
    assert lines[1].startswith("  false alarms on real images at 0.5: ")
    assert lines[2].startswith("  false alarms on real images at valid's threshold: ")
    assert lines[3].startswith("  false alarms on real images without small regions: ")
    figures = "AUC 75.00 [0.00, 100.00], accuracy 50.00 [0.00, 100.00], F1 50.00 [0.00, 100.00]"
    assert lines[4:8] == [
        "  whole images by their map at the image's own size, called fake above 0.5 (2 fake, 2 "
        "real):",
        f"    mean: {figures}",
        f"    maximum (any pixel above 0.5): {figures}",
        f"    mean of the highest 1% of pixels: {figures}",
    ]
    assert lines[8:] == [
        "  verdict forged at a score of at least 0.3, best on valid in training: 100.00% [100.00, "
        "100.00] of 2 fakes are called forged (true positive rate), 50.00% [0.00, 100.00] of 2 "
        "real images (false positive rate)"
    ]
    assert "verdict" not in "".join(evaluation_lines([replace(run, score_threshold=None)]))
