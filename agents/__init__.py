"""Agents: processes that connect minds with hands. No agent imports another; they share the runtime below them."""
