"""Where alarms go: a file, a webhook, an MQTT broker, a program."""
