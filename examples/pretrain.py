"""Pre-train without labels
========================

ACL first, then adversarial training (PGD) with few labels::

    python examples/pretrain.py

`pa.RoCL` stands in place of `pa.ACL` without another change. Beside it the same training from random weights.
"""

import torch

import protoat as pa

threat = pa.Linf(0.1)
train, test = pa.Digits().load("train"), pa.Digits().load("test")
labelled = train.subset(torch.arange(200))  # only these labels are used

torch.manual_seed(0)
acl = pa.ACL(threat)
encoder = acl.encoder(pa.LeNet(10, in_channels=1, image_size=8))  # batch norm of its own for attacked images
objective = pa.Objective(acl)
optimizer = torch.optim.Adam(pa.parameter_groups(encoder, objective, lr=1e-3))
pa.fit(encoder, pa.ImageLoader(train, batch_size=128), objective, epochs=4, optimizer=optimizer)

starts = {"random weights": pa.LeNet(10, in_channels=1, image_size=8), "ACL": acl.classifier(encoder)}
for name, model in starts.items():
    objective = pa.Objective(pa.PGDAT(threat))
    optimizer = torch.optim.Adam(pa.parameter_groups(model, objective, lr=1e-3))
    pa.fit(model, pa.ImageLoader(labelled, batch_size=50), objective, epochs=8, optimizer=optimizer)
    print(f"from {name}")
    print(pa.evaluate(model, test, ["clean", "pgd20"], threat=threat))
