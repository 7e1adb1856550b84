"""Finds the packages by their folders; all else is in setup.cfg."""

from setuptools import find_packages, setup

FOLDERS = ("losses", "modules", "pipelines", "scripts")

found = find_packages(include=[pattern for folder in FOLDERS for pattern in (folder, f"{folder}.*")])
setup(packages=["rlpipe", *(f"rlpipe.{name}" for name in found)])
