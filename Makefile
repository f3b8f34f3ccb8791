# The verbs of this repository; `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := /bin/sh
# := so that a shell variable cannot choose the server; `make tunnel HOST=…` can
HOST := dev
FROM :=
TO :=
ENV :=
VERSION :=
OVERRIDE :=
MODEL :=
VENDOR :=
CLIENT :=
REMOVE :=
AT := latest
BESIDE :=
BASE :=
REPLACE :=
DAMAGED :=
SEED :=
COUNT :=
SIZE :=
REGION :=
TTL :=
IDLE :=
YES :=
CONFIRM :=
BACKUP :=
INVENTORY := inventory/$(or $(VENDOR),local)
NAME :=
ADDRESS :=
PYTHON3 ?= python3
# checked first, so that a misspelled name gets a suggestion
LIMIT := $(if $(filter command,$(origin HOST)),--limit '$(HOST)')
# make up makes the folder, make down removes it
MADE := $(if $(filter inventory/local,$(INVENTORY)),test -d .local || \
  { echo "There is no local server yet. Type: make up. For one of your own add VENDOR=vultr or INVENTORY=FOLDER" >&2; exit 2; };)
FIND := $(if $(LIMIT),bin/servers.py -i $(INVENTORY) '$(HOST)' &&)
# the shell's USER is a local account: only make's USER chooses a login
PERSON := $(if $(filter command,$(origin USER)),--user $(USER))
# A server that is made, or gone, may not stand in hosts.yml. The vendor's dynamic file is not read: the role asks itself.
CLOUD = -i 'inventory/$(VENDOR)/hosts.yml' -i '$(NAME),' --limit '$(NAME)' -e '{"cloud_server_environment": "$(ENV)"}' \
  $(if $(YES),-e '{"cloud_server_yes": true}') $(if $(CONFIRM),-e '{"cloud_server_confirm": "$(CONFIRM)"}')
NAMED = $(if $(filter-out 1 yes,$(YES)),echo "YES is 1 or left out" >&2; exit 2;)$(if $(and $(filter-out local,$(VENDOR)),$(NAME)),,echo "VENDOR and NAME are missing. Type for example: \
  make $@ VENDOR=vultr NAME=recommender-dev$(if $(filter create up,$@), ENV=dev)" >&2; exit 2;)
# Ansible needs an installed UTF-8 locale: the first of these that exists
LOCALE := $(shell for name in '' C.UTF-8 en_US.UTF-8; do \
  if (test -z "$$name" || export LC_ALL=$$name; $(PYTHON3) -c 'import locale; \
  locale.setlocale(locale.LC_ALL, ""); locale.getlocale()[1] == "UTF-8" or exit(1)' 2>/dev/null); \
  then echo $$name; break; fi; done)
ifneq ($(LOCALE),)
$(warning ==> this machine has no UTF-8 locale by the name of LC_ALL=$(LC_ALL) or LANG=$(LANG); LC_ALL=$(LOCALE) is used instead)
export LC_ALL := $(LOCALE)
endif
ifneq ($(words $(CURDIR)),1)
$(error the path of this checkout must hold no blanks: $(CURDIR))
endif
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Ansible ignores ansible.cfg in a folder that everybody may write into (WSL)
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
# V=1 shows all that Ansible says, instead of one line a step
ifneq ($(V),)
export ANSIBLE_STDOUT_CALLBACK := default
endif
# FAST=1 goes through mitogen: half the time, and one connection for the whole run
ifneq ($(FAST),)
export ANSIBLE_STRATEGY := fast
endif

READY := .venv/.complete
LOCAL := inventory/local/group_vars/all/conda.yml
LOG := .local/last-run.log

.PHONY: help ready up down tunnel ssh-config models promote rollback key backup backups restore backup-key bench image image-run image-key who status notify-test doctor chaos add-host create destroy stop start cost test lint unit lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "V=1 behind a verb shows all that Ansible says, not one line a step. FAST=1 runs Ansible through mitogen."

ready: $(READY) ## make the control environment .venv: ansible, molecule and what they need

up: $(READY) ## the main job: a throw-away server on this machine, secured, with Jupyter, MLflow and a trained recommender; VENDOR=… as make create, and site.yml
	@$(if $(filter-out inventory/local inventory/$(VENDOR),$(INVENTORY)),echo "make up is for a server on this machine or a new one at a VENDOR; \
	for one that is there type: ansible-playbook site.yml -i $(INVENTORY)" >&2; exit 2)
	@$(if $(filter-out local,$(VENDOR)),$(MAKE) --no-print-directory create && \
	  ansible-playbook site.yml -i 'inventory/$(VENDOR)' --limit '$(NAME)' $(ARGS),bin/engine.sh $(MAKE) --no-print-directory .up)

.PHONY: .server .up .down .clean .test
.server:
	@mkdir -p .local && rm -f $(LOG) && (umask 077 && : > $(LOG))
	@vars=$$(molecule/conda_fixture/select.sh .cache) && \
	  if [ -n "$$vars" ]; then \
	    { cat "$$vars"; echo "cloud_server_local_volumes: ['$$(dirname "$$vars"):/srv/conda-fixture:ro']"; } > $(LOCAL).new && mv $(LOCAL).new $(LOCAL); \
	  else rm -f $(LOCAL); fi
	@ANSIBLE_LOG_PATH=$(LOG) ansible-playbook playbooks/create.yml -i inventory/local

.up: .server
	@ANSIBLE_LOG_PATH=$(LOG) ansible-playbook site.yml -i inventory/local
	@if grep -q 'changed=[1-9]' $(LOG); then echo "==> the server is ready; next: make tunnel"; \
	else echo "==> nothing had to be changed; next: make tunnel"; fi

down: ## remove the throw-away server, its keys and all that make up generated (downloads stay; make clean)
	@if command -v docker >/dev/null; then bin/engine.sh $(MAKE) --no-print-directory .down; fi
	@rm -rf .local $(LOCAL)

.down: $(READY)
	@ansible-playbook playbooks/destroy.yml -i inventory/local

tunnel: $(READY) ## forward Jupyter, MLflow … to this machine: make tunnel [INVENTORY=inventory/vultr] [HOST=name] [USER=person]
	@$(MADE) exec bin/tunnel -i $(INVENTORY) $(PERSON) $(HOST)

ssh-config: $(READY) ## print the servers for ~/.ssh/config (VS Code, PyCharm): make -s ssh-config [INVENTORY=…] [HOST=…] [USER=…]
	@$(MADE) bin/tunnel --ssh-config -i $(INVENTORY) $(PERSON) $(HOST)

bench: $(READY) ## measure what docs/figures.md states: make bench [ONLY=site]; each file of bench/ prints a table
	@for part in $(or $(ONLY:%=bench/%.*),bench/*); do bin/engine.sh "$$part" || exit 1; done

models: $(READY) ## versions, aliases and metrics in every environment: make models [INVENTORY=inventory/vultr]
	@$(MADE) bin/models -i $(INVENTORY) show

promote: $(READY) ## copy a version, if it passes the gate: make promote FROM=dev TO=staging [VERSION=3] [OVERRIDE=metrics] [MODEL=…]
	@$(if $(and $(FROM),$(TO)),,echo "FROM and TO are missing. Type for example: make promote FROM=dev TO=staging" >&2; exit 2)
	@$(MADE) bin/models -i $(INVENTORY) promote --from '$(FROM)' --to '$(TO)' --version '$(VERSION)' --override '$(OVERRIDE)' --model '$(MODEL)'

rollback: $(READY) ## swap champion and previous, or name a version: make rollback ENV=prod [VERSION=2] [MODEL=…]
	@$(if $(ENV),,echo "ENV is missing. Type for example: make rollback ENV=prod" >&2; exit 2)
	@$(MADE) bin/models -i $(INVENTORY) rollback --environment '$(ENV)' --version '$(VERSION)' --model '$(MODEL)'

key: $(READY) ## a key for a client of the served model, shown once: make key ENV=prod CLIENT=shop; without CLIENT their ids; REMOVE=id
	@$(if $(ENV),,echo "ENV is missing. Type for example: make key ENV=prod CLIENT=shop" >&2; exit 2)
	@$(MADE) bin/models -i $(INVENTORY) key --environment '$(ENV)' --client '$(CLIENT)' --remove '$(REMOVE)'

image: $(READY) ## the champion with its service as a container image, and its SBOM: make image [ENV=prod] [INVENTORY=inventory/vultr] [BASE=packages]
	@$(MADE) bin/engine.sh bin/image.py -i '$(INVENTORY)' build --environment '$(or $(ENV),dev)' --base='$(BASE)'

image-run: $(READY) ## run that image here, read-only and not as root, and ask it for a list: make image-run [ENV=prod]
	@bin/engine.sh bin/image.py run --environment '$(or $(ENV),dev)'

image-key: $(READY) ## a key for a client of the image, and what its target needs to know: make image-key CLIENT=shop
	@bin/image.py key '$(or $(CLIENT),shop)'

backup: $(READY) ## make a copy now: make backup [INVENTORY=inventory/vultr] [HOST=name]
	@$(MADE) $(FIND) ansible-playbook playbooks/copies.yml -i $(INVENTORY) $(LIMIT) -e copies_run=true

backups: $(READY) ## the copies: how old, how large, the last drill: make backups [INVENTORY=inventory/vultr] [HOST=name]
	@$(MADE) $(FIND) ansible-playbook playbooks/copies.yml -i $(INVENTORY) $(LIMIT)

restore: $(READY) ## bring copies back: make restore HOST=name [AT=2026-11-28T17:00] [ONLY=notebooks:ana] [BESIDE=/folder] [REPLACE=yes]
	@$(if $(filter-out yes,$(REPLACE) $(DAMAGED)),echo "REPLACE and DAMAGED are yes or left out" >&2; exit 2)
	@$(if $(LIMIT),,echo "HOST is missing. Type for example: make restore HOST=recommender-prod" >&2; exit 2)
	@$(MADE) $(FIND) ansible-playbook playbooks/restore.yml -i $(INVENTORY) $(LIMIT) \
	  -e '{"restore_at": "$(AT)", "restore_only": "$(ONLY)", "restore_to": "$(BESIDE)", "restore_replace": $(if $(REPLACE),true,false), "restore_damaged": $(if $(DAMAGED),true,false)}'

backup-key: $(READY) ## print the keys of the copies, for a vault: make backup-key [INVENTORY=inventory/vultr] [HOST=name]
	@$(MADE) $(FIND) ansible-playbook playbooks/backup_key.yml -i $(INVENTORY) $(LIMIT)

who: $(READY) ## who can log in, with which key: make who [INVENTORY=inventory/vultr] [HOST=name]
	@$(MADE) $(FIND) ansible-playbook playbooks/who.yml -i $(INVENTORY) $(LIMIT)

status: $(READY) ## one page: services, served versions, copies, updates, people; fails when something is wrong: make status [INVENTORY=inventory/vultr] [HOST=name]
	@$(MADE) $(FIND) ansible-playbook playbooks/status.yml -i $(INVENTORY) $(LIMIT)

notify-test: $(READY) ## send a test message from each server by each channel: make notify-test [INVENTORY=inventory/vultr] [HOST=name]
	@$(MADE) $(FIND) ansible-playbook playbooks/notify_test.yml -i $(INVENTORY) $(LIMIT)

doctor: $(READY) ## look at this machine and at each server, say what is wrong and what mends it: make doctor [VENDOR=vultr] [HOST=name]
	@bin/doctor.py -i '$(INVENTORY)' $(if $(LIMIT),'$(HOST)')

chaos: $(READY) ## hurt the server of make up in 37 ways; each time it recovers or says what to type: make chaos [SEED=7] [COUNT=5] [ONLY=disk]
	@$(MADE) bin/engine.sh bin/chaos.py -i '$(INVENTORY)' $(SEED:%=--seed='%') $(COUNT:%=--count='%') --only='$(ONLY)'

add-host: $(READY) ## write a server into an inventory: make add-host VENDOR=vultr NAME=recommender-dev ADDRESS=198.51.100.7 ENV=dev
	@bin/add_host.py -i 'inventory/$(VENDOR)' --name='$(NAME)' --address='$(ADDRESS)' --environment='$(ENV)'

create: $(READY) ## make a server at a vendor: make create VENDOR=vultr NAME=recommender-dev ENV=dev [SIZE=medium] [REGION=fra] [TTL=8h] [IDLE=4h] [YES=1]
	@$(NAMED) ansible-playbook playbooks/create.yml $(CLOUD) $(if $(SIZE),-e '{"cloud_server_size": "$(SIZE)"}') \
	  $(if $(REGION),-e '{"cloud_server_region": "$(REGION)"}') $(if $(TTL),-e '{"cloud_server_ttl": "$(TTL)"}') \
	  $(if $(IDLE),-e '{"cloud_server_idle": "$(IDLE)"}')

destroy: $(READY) ## remove such a server with all that is on it: make destroy VENDOR=vultr NAME=recommender-dev [BACKUP=yes] [YES=1] [CONFIRM=name]
	@$(if $(filter-out yes no,$(BACKUP)),echo "BACKUP is yes or no or left out" >&2; exit 2;) $(NAMED) \
	  $(if $(filter yes,$(BACKUP)),ansible-playbook playbooks/copies.yml -i 'inventory/$(VENDOR)' --limit '$(NAME)' -e copies_run=true &&) \
	  ansible-playbook playbooks/destroy.yml $(CLOUD) $(if $(BACKUP),-e '{"cloud_server_last_copy": "$(BACKUP)"}')

stop: $(READY) ## switch such a server off; at most vendors it still costs: make stop VENDOR=vultr NAME=recommender-dev
	@$(NAMED) ansible-playbook playbooks/power.yml $(CLOUD) -e '{"cloud_server_state": "stopped"}'

start: $(READY) ## switch it on again: make start VENDOR=vultr NAME=recommender-dev
	@$(NAMED) ansible-playbook playbooks/power.yml $(CLOUD) -e '{"cloud_server_state": "started"}'

cost: $(READY) ## what the servers at all vendors cost whose credentials are set
	@ansible-playbook playbooks/cost.yml -i localhost,

test: $(READY) ## lint, unit tests, molecule test --all of every role, the whole site as its user would; one part: make test ONLY=firewall
	@bin/engine.sh $(MAKE) --no-print-directory .test

# Built first, once, because parallel parts would disturb each other.
.test:
	@roles/cloud_server/files/local/image.sh trixie >/dev/null
	@roles/cloud_server/files/local/image.sh bookworm >/dev/null & image=$$!; \
	  molecule/conda_fixture/select.sh .cache >/dev/null; conda=$$?; \
	  $(MAKE) --no-print-directory -C ml .venv/.complete COMPILE= PYTHON= >/dev/null || conda=$$?; wait $$image && exit $$conda
	@pytest -v -n 4 --maxschedchunk 1 --durations 0 --durations-min 1 -ra tests/suite.py $(if $(ONLY),-k '$(ONLY)') $(ARGS)

lint: $(READY) ## ansible-lint, yamllint, ruff, mypy, shellcheck
	@pytest -q tests/suite.py -k lint

unit: $(READY) ## the unit tests alone: no container
	@pytest -q tests/suite.py -k unit

lock: $(READY) ## resolve the control environment's and the roles' requirements again, with hashes; needs the network
	@for in in requirements.in $(wildcard roles/*/files/requirements.in) tests/site/spark.in; do \
	  uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes $$in -o $${in%.in}.txt || exit 1; done
# only what they carry is read
	@uv pip compile --quiet --upgrade --universal --no-deps --python-version 3.11 --generate-hashes tests/image/requirements.in -o tests/image/requirements.txt
	@$(MAKE) -C ml lock

clean: down ## down, and remove the control environment, caches and images
	@if command -v docker >/dev/null; then bin/engine.sh $(MAKE) --no-print-directory .clean; fi
	@rm -rf .venv .cache

.clean:
	@docker volume rm -f bare-server-uv-cache >/dev/null
	@images=$$({ docker images -q --filter reference=bare-server --filter reference=debian-from-packages; \
	  docker images -q --filter label=recommender.bundle; } | sort -u) && { test -z "$$images" || docker rmi -f $$images >/dev/null; }

# The marker is written last: an interrupted build has none and starts again.
# Compiled here, once: where Python may not write bytecode (PYTHONDONTWRITEBYTECODE, as containers have it), each start would
# compile it all again.
$(READY): requirements.txt
	@$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, this is $$($(PYTHON3) --version 2>&1): install it, then make PYTHON3=python3.12 …" >&2; exit 2; }
	@$(PYTHON3) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "python3 cannot make virtual environments: apt install python3-venv" >&2; exit 2; }
	@echo "==> making .venv from the lock (once)"
	@rm -rf .venv && $(PYTHON3) -m venv .venv
	@awk '/^[^ #]/ {keep = /^uv==/} keep' requirements.txt > .venv/uv.txt
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r .venv/uv.txt
	@VIRTUAL_ENV=.venv .venv/bin/uv pip sync --compile-bytecode --require-hashes requirements.txt
	@touch $@
