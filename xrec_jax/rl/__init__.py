"""PPO and rewards: functions on arrays."""
