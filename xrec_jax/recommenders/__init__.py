"""Predictors: ids (and text features) to scores."""
