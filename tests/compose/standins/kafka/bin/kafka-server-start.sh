#!/bin/bash
exec /opt/kafka/bin/java-class.sh kafka.Kafka "$@"
