"""Parts of the lean rollout of `SyncDataCollector`."""
