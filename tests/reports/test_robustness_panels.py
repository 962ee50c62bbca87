import math

from declip_pipeline.reports.robustness_panels import read_panels

TABLE = """view,family,strength,generator,images,iou,iou_low,iou_high,ap
clean,,,ldm,4,60.0,50.0,70.0,0.5
clean,,,lama,4,30.0,20.0,40.0,0.5
clean,,,overall,8,45.0,35.0,55.0,0.5
jpeg:70,jpeg,70.0,ldm,4,40.0,30.0,50.0,0.5
jpeg:70,jpeg,70.0,lama,4,,,,0.5
jpeg:70,jpeg,70.0,overall,8,40.0,30.0,50.0,0.5
blur:1.5,blur,1.5,ldm,4,10.0,5.0,15.0,0.5
blur:1.5,blur,1.5,lama,4,11.0,6.0,16.0,0.5
blur:1.5,blur,1.5,overall,8,10.5,5.5,15.5,0.5
jpeg:70+blur:1,,,ldm,4,1.0,0.0,2.0,0.5
"""


def test_a_panel_for_each_family_begins_with_the_clean_view(tmp_path):
    path = tmp_path / "robustness.csv"
    path.write_text(TABLE)
    jpeg, blur = read_panels(path)
    assert (jpeg.title, blur.title) == ("JPEG, quality", "blur, sigma in pixels")
    assert list(jpeg.strengths) == ["clean", "70"] and list(blur.strengths) == ["clean", "1.5"]
    assert list(jpeg.lines) == ["ldm", "lama"]
    assert jpeg.lines["ldm"] == [(60.0, 50.0, 70.0), (40.0, 30.0, 50.0)]
    assert blur.lines["lama"][1] == (11.0, 6.0, 16.0)
    assert all(math.isnan(value) for value in jpeg.lines["lama"][1])


def test_without_a_family_there_is_no_panel(tmp_path):
    path = tmp_path / "robustness.csv"
    path.write_text("\n".join([*TABLE.splitlines()[:4], TABLE.splitlines()[-1]]))
    assert read_panels(path) == []
