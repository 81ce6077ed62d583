from tests.stores import (
    between,
    local_store,
    moto_endpoint,
    moto_store,
    own_cache,
    rclone_endpoint,
    rclone_store,
    store,
)

__all__ = [
    "between",
    "local_store",
    "moto_endpoint",
    "moto_store",
    "own_cache",
    "rclone_endpoint",
    "rclone_store",
    "store",
]
