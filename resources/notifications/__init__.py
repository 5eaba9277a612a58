"""Notifications: what happened, told to Discord, Telegram, Slack, email or any webhook.

audit trail -> router (routes of data/config/notifications.yaml) -> one durable queue per channel -> channel. See
docs/notifications.md.
"""
