import pytest

from serving.features.user_state import certain_age_years


@pytest.mark.parametrize(("by_year_of_birth", "certain"), [(18, 17), (19, 18), (1, 0), (0, 0), (-1, 0)])
def test_someone_whose_birthday_may_be_ahead_is_a_year_younger(by_year_of_birth: float, certain: float) -> None:
    assert certain_age_years(by_year_of_birth) == certain
