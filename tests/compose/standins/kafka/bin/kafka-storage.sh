#!/bin/bash
exec /opt/kafka/bin/java-class.sh kafka.tools.StorageTool "$@"
