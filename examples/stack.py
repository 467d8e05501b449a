"""Train a sweep over sigma in one process: each student learns what it would learn alone."""

import lightning as L

from noisy_kd import (
    BestEpoch,
    CachedLogits,
    DigitsDataModule,
    Distiller,
    StudentStack,
    network,
    noisy_teacher,
    supervised,
)

SIGMAS = (0.0, 0.3, 0.6, 0.9)
L.seed_everything(0)
images = DigitsDataModule(val_size=180)
teacher = network("[C3(S1P1)@32]-[C3(S1P1)@64-MP2(S2)]-FC128-FC10", (1, 8, 8), seed=0)
L.Trainer(max_epochs=10, logger=False, enable_checkpointing=False).fit(
    Distiller(teacher, method=supervised()), images
)

students = [network("FC64-FC10", (1, 8, 8), seed=1) for _ in SIGMAS]
methods = [noisy_teacher(alpha=0.5, sigma=sigma) for sigma in SIGMAS]
stack = StudentStack(
    [Distiller(s, method=m, seed=1) for s, m in zip(students, methods, strict=True)]
)
best = BestEpoch()  # keeps each student's weights of its best epoch
trainer = L.Trainer(max_epochs=30, callbacks=[best], logger=False, enable_checkpointing=False)
trainer.fit(stack, CachedLogits(images, teacher, store=".cache/store"))
for sigma, kept in zip(SIGMAS, best.best, strict=True):
    print(f"sigma {sigma}: {kept.val_error:.2%} validation errors in epoch {kept.epoch}")
