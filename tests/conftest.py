"""Puts this folder on the import path, so that tests share builders such as `bundle_fixture`."""
