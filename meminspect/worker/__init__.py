"""The torch side: a process that loads a checkpoint and reports on itself. Spawned, never imported by the layers."""
