# The shell function that `conda activate` needs: activation changes this shell, everything else runs conda.
export CONDA_EXE='@PREFIX@/bin/conda'
export CONDA_PYTHON_EXE='@PREFIX@/bin/python'
__conda_eval() {
    __conda_script=$(PS1="${PS1:-}" "$CONDA_EXE" shell.posix "$@") || return
    eval "$__conda_script"
    unset __conda_script
    hash -r
}
conda() {
    case "${1:-}" in
        activate|deactivate) __conda_eval "$@" ;;
        install|update|upgrade|remove|uninstall) "$CONDA_EXE" "$@" && __conda_eval reactivate ;;
        *) "$CONDA_EXE" "$@" ;;
    esac
}
if [ -z "${CONDA_SHLVL+x}" ]; then
    export CONDA_SHLVL=0
    PATH="@PREFIX@/condabin${PATH:+:$PATH}"
    export PATH
fi
