"""The schedule counts, falls and stops as the paper's does."""

from declip_pipeline.training.plateau_schedule import PlateauSchedule


def rates(schedule, scores):
    """The learning rate after each epoch, None once stopped."""
    found = []
    for iou in scores:
        schedule.after_epoch(iou)
        found.append(None if schedule.stopped else round(schedule.learning_rate, 12))
    return found


def test_a_gain_must_beat_the_best_by_the_delta():
    schedule = PlateauSchedule(patience=2)
    assert rates(schedule, [10, 10.0005, 10.0011]) == [1e-3] * 3
    assert rates(schedule, [10.002]) == [1e-3]
    assert rates(schedule, [10.002]) == [1e-4]


def test_a_fresh_count_begins_with_its_first_epoch_and_the_larger_delta():
    schedule = PlateauSchedule(patience=2)
    rates(schedule, [50, 0, 0])
    assert schedule.learning_rate == 1e-4
    assert rates(schedule, [20, 20.0019, 20.0021]) == [1e-4] * 3
    assert rates(schedule, [20.0035, 20.0040]) == [1e-4, 1e-5]


def test_it_stops_below_the_least_rate():
    schedule = PlateauSchedule(patience=1)
    assert rates(schedule, [10] * 9) == [1e-3, 1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6, None, None]


def test_its_state_restores_it():
    schedule = PlateauSchedule(patience=3)
    rates(schedule, [5, 4, 3])
    copy = PlateauSchedule(**schedule.to_state())
    assert copy == schedule
    assert rates(copy, [1, 2, 3]) == rates(schedule, [1, 2, 3])
