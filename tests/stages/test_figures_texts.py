"""Lines of figures: each mean with its interval, pictures without a fake pixel in a line apart."""

from declip_pipeline.evaluation.figures import figures_with_intervals
from declip_pipeline.evaluation.localization import ImageResult
from stages.figures_texts import figures_lines


def image(number, iou, has_fake=True, fake_share=0.2):
    return ImageResult(
        *(f"p{number}", "test", "ldm", has_fake, iou, 0.9, 0.8, 0.7, 0.125, fake_share)
    )


def figures(*runs):
    return figures_with_intervals(runs)


def test_a_line_has_the_intervals_and_real_pictures_have_their_own():
    found = figures([image(0, 40.0), image(1, 60.0), image(2, 0.0, False, 0.25)])
    assert figures_lines({"ldm": found}, found) == [
        "  ldm: IoU 50.00 [40.0, 60.0], F1 best 0.9000 [0.900, 0.900], "
        "F1 at 0.5 0.8000 [0.800, 0.800], AP 0.7000 [0.700, 0.700] (2 pictures)",
        "  ldm, left out of the means: 1 picture without a fake pixel, of which 25.00% of pixels "
        "are called fake at 0.5 (mean score 0.1250)",
    ]


def test_what_is_not_there_is_not_shown():
    one, none = figures([image(0, 40.0)]), figures([image(0, 0.0, False)])
    lines = figures_lines({"lama": one, "ldm": none}, figures([image(0, 40.0), image(1, 0, False)]))
    assert lines[0] == "  lama: IoU 40.00, F1 best 0.9000, F1 at 0.5 0.8000, AP 0.7000 (1 picture)"
    assert lines[1] == "  ldm: no picture with a fake pixel"
    assert [line.split(",")[0].split(":")[0].strip() for line in lines[2:]] == [
        *("ldm", "overall", "overall")
    ]


def test_over_seeds_the_spread_stands_beside_the_mean():
    found = figures([image(0, 49.0), image(1, 49.0)], [image(0, 51.0), image(1, 51.0)])
    (line,) = figures_lines({"ldm": found}, found)
    assert line.startswith("  ldm: IoU 50.00 ± 1.41 [40.8, 59.2], F1 best 0.9000 ± 0.0000 [0.900")
