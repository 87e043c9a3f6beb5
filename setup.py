"""Builds the firmware's feature extraction as a Python extension (DESIGN D1).

Everything else about the package is in pyproject.toml.
"""

from setuptools import setup

setup(cffi_modules=["kws/features/build_extension.py:ffibuilder"])
