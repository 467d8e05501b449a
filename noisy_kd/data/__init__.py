"""Images: sources, preprocessing, LightningDataModules; and the store."""
