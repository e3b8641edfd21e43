"""Names that the frameworks do not promise, looked up without importing one."""
