from __future__ import annotations

from tests.etcd import etcd_path

__all__ = ["etcd_path"]
