"""The Gregorian calendar without bounds: dates as a guest may write them, and back.

Dates are counted in years that begin in March, so that the leap day is the last; 400 such years have
146,097 days.
"""

ERA_YEARS, ERA_DAYS = 400, 146_097
MARCH_1_YEAR_0 = -719_468  # days from 1970-01-01


def days_from_civil(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01. Months and days out of range carry into years and months."""
    years, month = divmod(month - 3, 12)  # 0 is March
    era, year = divmod(year + years, ERA_YEARS)
    day_of_year = (153 * month + 2) // 5 + day - 1
    return MARCH_1_YEAR_0 + era * ERA_DAYS + year * 365 + year // 4 - year // 100 + day_of_year


def civil_from_days(days: int) -> tuple[int, int, int]:
    """(year, month, day) of a day counted from 1970-01-01."""
    era, day = divmod(days - MARCH_1_YEAR_0, ERA_DAYS)
    year = (day - day // 1460 + day // 36_524 - day // 146_096) // 365
    day -= year * 365 + year // 4 - year // 100
    month = (5 * day + 2) // 153
    day -= (153 * month + 2) // 5
    year += era * ERA_YEARS + (month >= 10)
    return year, (month + 2) % 12 + 1, day + 1
