"""Texts that say why a model cannot be loaded or did not load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from webapp.texts import N_
from webapp.web.words.sentence import Sentence, one

MODELS: Final[Mapping[str, Sentence]] = {
    "model_incomplete": one(N_("the download is incomplete, missing: %(missing)s; download it again")),
    "model_no_weights": one(N_("the snapshot has no weights; download the model again")),
    "model_no_config": one(N_("config.json is missing; download the model again")),
    "model_broken_config": one(N_("config.json cannot be read: %(detail)s; download the model again")),
    "model_broken_weights": one(N_("the weights file %(file)s is damaged: %(detail)s; download it again")),
    "model_pickle_only": one(N_("the weights are pickle only, which can run code; WARDEN_ALLOW_PICKLE allows it")),
    "model_remote_code": one(N_("it needs code from the model’s repository; WARDEN_ALLOW_REMOTE_CODE allows it")),
    "model_not_causal": one(N_("it does not generate text (%(architecture)s); a language model is needed")),
    "model_no_tokenizer": one(N_("there is no tokenizer; download the whole model")),
    "model_unreadable": one(N_("the files cannot be read: %(detail)s; check the permissions of the cache")),
    "model_misread": one(
        N_(
            "Warden failed to interpret the model %(model)s (%(detail)s): this is a bug in Warden, its log "
            "has the details; download the model again or delete it from the cache"
        )
    ),
}
"""Why a cached model cannot be loaded, as clauses after a colon."""

REASONS: Final[Mapping[str, Sentence]] = {
    "worker_command_missing": one(N_("the program in WARDEN_WORKER_COMMAND is not on this server")),
    "folder_broken": one(N_("its folder is damaged")),
    "files_gone": one(N_("its files are no longer in the cache")),
    "revision_gone": one(N_("the cache now holds another revision")),
    "half_started": one(N_("it had not finished starting")),
    "launch_too_slow": one(N_("it took too long to load")),
    "model_pickle_only": one(N_("its weights are pickle only, which can run code")),
    "model_remote_code": one(N_("it needs code from the model’s repository")),
    "model_no_tokenizer": one(N_("there is no tokenizer")),
    "transformers_not_installed": one(
        N_("Transformers mode is not installed on this server: it needs the extra warden[transformers]")
    ),
    "vllm_not_installed": one(N_("vLLM mode is not installed on this server: it needs the extra warden[vllm]")),
    "model_incomplete": one(N_("its download is incomplete")),
    "model_no_weights": one(N_("the snapshot has no weights")),
    "model_no_config": one(N_("config.json is missing")),
    "model_broken_config": one(N_("config.json cannot be read")),
    "model_broken_weights": one(N_("a weights file is damaged")),
    "model_not_causal": one(N_("it does not generate text")),
    "model_unreadable": one(N_("its files cannot be read")),
    "model_misread": one(N_("Warden failed to interpret it")),
    "out_of_memory": one(N_("it ran out of memory")),
    "launch_failed": one(N_("it did not start")),
    "launch_stalled": one(N_("the load stalled")),
    "worker_died": one(N_("its process exited unexpectedly")),
    "worker_garbled": one(N_("its process sent an invalid response")),
    "server_garbled": one(N_("its container does not run vLLM")),
    "worker_silent": one(N_("its process is not responding")),
    "worker_cut_off": one(N_("its folder was removed")),
    "unknown_instance": one(N_("it is gone")),
    "unknown_model": one(N_("it is not in the cache")),
    "not_enough_memory": one(N_("there is not enough memory for it")),
    "device_unreadable": one(N_("the device’s readings are unreliable")),
    "stop_failed": one(N_("its process could not be stopped")),
    "engine_unavailable": one(N_("Docker is not responding")),
    "engine_missing": one(N_("Docker was not found on this server")),
    "engine_forbidden": one(N_("no permission for Docker’s socket")),
    "engine_unreachable": one(N_("Docker is not responding")),
    "engine_failed": one(N_("Docker returns an error")),
    "disk_full": one(N_("the disk is full")),
    "disk_read_only": one(N_("the disk is read-only")),
    "too_many_files": one(N_("the limit of open files is reached")),
    "too_many_processes": one(N_("the limit of processes is reached")),
    "load_fenced": one(N_("another process took its memory")),
    "image_missing": one(N_("the vLLM image is not on this server")),
    "gpu_runtime_missing": one(N_("Docker cannot give a container a GPU")),
    "port_taken": one(N_("all ports for containers are taken")),
    "port_lost": one(N_("another process took its port")),
    "name_taken": one(N_("the name of its container is taken")),
    "profile_disturbed": one(N_("another process disturbed the memory measurement")),
    "start_memory_short": one(N_("there was too little free memory at the start")),
    "kv_cache_too_small": one(N_("the KV cache does not hold even one request")),
    "architecture_unsupported": one(N_("vLLM does not support its architecture")),
    "argument_rejected": one(N_("vLLM rejected an argument")),
    "context_too_long": one(N_("it does not support that many tokens")),
    "container_removed": one(N_("somebody else removed its container")),
    "container_exited": one(N_("its container exited unexpectedly")),
}
"""The same without values, for a message that contains only another message's code."""
