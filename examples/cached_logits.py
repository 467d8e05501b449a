"""Compute the teacher's logits once: each epoch then costs the student alone."""

import lightning as L

from noisy_kd import CachedLogits, DigitsDataModule, Distiller, network, noisy_teacher, supervised

L.seed_everything(0)
images = DigitsDataModule(val_size=180)
teacher = network("[C3(S1P1)@32]-[C3(S1P1)@64-MP2(S2)]-FC128-FC10", (1, 8, 8), seed=0)
L.Trainer(max_epochs=10, logger=False, enable_checkpointing=False).fit(
    Distiller(teacher, method=supervised()), images
)

data = CachedLogits(images, teacher, store=".cache/store")  # yields (x, y, z)
distiller = Distiller(
    network("FC64-FC10", (1, 8, 8), seed=1), method=noisy_teacher(alpha=0.5, sigma=0.9), seed=1
)
trainer = L.Trainer(max_epochs=30, logger=False, enable_checkpointing=False)
trainer.fit(distiller, data)
(scores,) = trainer.test(distiller, data, verbose=False)
print(f"student: {scores['test/error']:.2%} test errors, {scores['test/agreement']:.2%} agreement")
