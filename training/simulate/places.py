"""Countries, languages and devices of StreamFlix."""

import numpy as np

from serving.config import COUNTRIES as KNOWN_COUNTRIES
from training.data.schemas import Device

COUNTRIES = (*KNOWN_COUNTRIES, "IT", "CA")
"""The vocabulary's countries and two outside of it, which features know only as `other`."""
COUNTRY_SHARE = np.array([0.30, 0.12, 0.11, 0.09, 0.08, 0.09, 0.09, 0.06, 0.03, 0.03])
HOURS_FROM_UTC = np.array([-6, 0, 1, 1, 1, -3, 5, 9, 1, -5], dtype=np.float32)

LANGUAGES = ("en", "de", "fr", "es", "pt", "hi", "ja", "it", "ko")
LANGUAGE_SHARE = np.array([0.55, 0.06, 0.08, 0.08, 0.04, 0.06, 0.07, 0.03, 0.03])
COUNTRY_LANGUAGE = np.array([0, 0, 1, 2, 3, 4, 5, 6, 7, 0], dtype=np.int8)

DEVICES = tuple(device.value for device in Device)
DEVICE_SHARE = np.array([0.38, 0.34, 0.10, 0.18])
PROVIDERS = (
    "Northlight", "Harbour Pictures", "StreamFlix", "Kestrel", "Blue Lantern", "Meridian", "Paper Moon", "Long Shadow",
    "Tidewater", "Red Door", "Alder & Sons", "Second Unit", "Lighthouse", "Cinema Aurora", "Salt Road",
)  # fmt: skip
PROVIDER_SHARE = np.array([0.22, 0.16, 0.12, 0.10, 0.08, 0.07, 0.06, 0.05, 0.04, 0.03, 0.02, 0.015, 0.015, 0.01, 0.01])

MATURITIES = np.array([0, 7, 12, 16, 18], dtype=np.int16)
"""Ages that films are rated for; a user's age class is the highest of these not above the user's age."""
AGE_CLASSES = len(MATURITIES)


def eligibility_bit(country: np.ndarray, age_class: np.ndarray) -> np.ndarray:
    """The bit of a film's 64-bit eligibility mask that speaks for users of a country and age class; uint64."""
    bit = np.asarray(country, dtype=np.uint64) * np.uint64(AGE_CLASSES) + np.asarray(age_class, dtype=np.uint64)
    return bit.astype(np.uint64)


def age_class_of(birth_year: np.ndarray, year: int) -> np.ndarray:
    """Age classes int8, same shape; an unknown birth year (0) is the youngest class."""
    age = np.where(birth_year > 0, year - birth_year, 0)
    return (np.searchsorted(MATURITIES, age, side="right") - 1).clip(0).astype(np.int8)
