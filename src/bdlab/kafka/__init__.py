"""Producer, consumer and administration of the topic. The only importer of confluent_kafka."""
