from tests.stores import local_store, moto_endpoint, moto_store, own_cache, rclone_endpoint, rclone_store, store

__all__ = ["local_store", "moto_endpoint", "moto_store", "own_cache", "rclone_endpoint", "rclone_store", "store"]
