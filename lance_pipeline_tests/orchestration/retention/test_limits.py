from hypothesis import given
from hypothesis import strategies as st

from lance_pipeline.orchestration.attributes import Keep
from lance_pipeline.orchestration.retention.limits import within_limits

DAY = 86400.0
ages = st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0, 200 * DAY), max_size=30)


@given(ages, st.integers(1, 25), st.floats(0, 150))
def test_what_goes_is_beyond_both_limits(age: dict[str, float], models: int, days: float):
    now = 1e9
    made = {name: now - seconds for name, seconds in age.items()}
    stays = within_limits(made, Keep(models=models, days=days), now)
    for name in made.keys() - stays.keys():
        assert now - made[name] >= days * DAY
        assert sum(other >= made[name] for other in made.values()) > models
    assert len(stays) >= min(models, len(made))
    for name in stays:
        later = sum(other > made[name] for other in made.values())
        assert later < models or now - made[name] < days * DAY
