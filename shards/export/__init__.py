"""Shards in other tools' forms: COCO's JSON, LLaVA's JSON, Megatron-Energon's folders."""
