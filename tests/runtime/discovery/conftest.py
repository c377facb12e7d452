"""Fixtures of the tests against a real etcd."""

from __future__ import annotations

from tests.etcd import etcd, etcd_path

__all__ = ["etcd", "etcd_path"]
