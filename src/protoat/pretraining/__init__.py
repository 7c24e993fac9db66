"""Self-supervised robust pre-training: methods that `protoat.fit` runs like any other, without labels."""

from protoat.pretraining.acl import ACL
from protoat.pretraining.contrastive import Contrastive
from protoat.pretraining.rocl import RoCL

__all__ = ["ACL", "Contrastive", "RoCL"]
