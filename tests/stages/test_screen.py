"""Names are shown to the letter, whatever they look like."""

from stages.screen import progress, remark

ODD = "runs/[bold]x[/] :smile: [/x] {task}"


def test_a_remark_is_shown_to_the_letter(capsys):
    remark(ODD)
    assert capsys.readouterr().err == f"{ODD}\n"


def test_a_bar_is_named_to_the_letter(capsys):
    with progress(ODD) as tell:
        tell(1, 1)
    assert ODD in capsys.readouterr().err
