<#
.SYNOPSIS
    Joins this machine to a Ramify mesh and keeps its worker running, on Windows or Linux.

.DESCRIPTION
    Starts bin/agent worker and starts it again when it ends, after a pause that doubles up to a minute. It stays down after
    an asked stop (0), for settings (2), an environment that does not fit (3), and when it is deposed or revoked (8). With
    -AtStartup it registers itself first: as a scheduled task on Windows (run it as administrator), as a unit of the user's
    systemd on Linux.

.PARAMETER Join
    The word that `bin/agent invite` printed. Needed once: the machine then has an identity of its own.

.PARAMETER AtStartup
    Start with the machine, too.

.EXAMPLE
    pwsh -File deploy/powershell/worker.ps1 -Join TOKEN
#>
[CmdletBinding()]
param(
    [string] $Join = "",
    [switch] $AtStartup
)
Set-StrictMode -Version 3
$ErrorActionPreference = "Stop"

$final = 0, 2, 3, 8, 9
$quickSeconds = 60
$pauseSecondsMax = 60
$checkout = [IO.Path]::GetFullPath([IO.Path]::Combine($PSScriptRoot, "..", ".."))
$onWindows = $PSVersionTable.PSEdition -eq "Desktop" -or $IsWindows

function Get-Python {
    $names = if ($onWindows) { @("py", "python") } else { @("python3", "python") }
    foreach ($name in $names) {
        $found = Get-Command $name -CommandType Application -ErrorAction SilentlyContinue | Select-Object -First 1
        if ($found) { return $found.Source }
    }
    throw "Python 3.11, 3.12 or 3.13 is needed and none was found: install one and try again."
}

function Register-AtStartup {
    $shell = (Get-Process -Id $PID).Path
    if ($onWindows) {
        $arguments = "-NoProfile -ExecutionPolicy Bypass -File `"$PSCommandPath`""
        $action = New-ScheduledTaskAction -Execute $shell -Argument $arguments -WorkingDirectory $checkout
        $settings = New-ScheduledTaskSettingsSet -RestartCount 999 -RestartInterval (New-TimeSpan -Minutes 1) -ExecutionTimeLimit 0
        $principal = New-ScheduledTaskPrincipal -UserId $env:USERNAME -LogonType S4U
        Register-ScheduledTask -TaskName "Ramify worker" -Action $action -Settings $settings -Principal $principal `
            -Trigger (New-ScheduledTaskTrigger -AtStartup) -Force | Out-Null
        return
    }
    $folder = Join-Path $HOME ".config/systemd/user"
    New-Item -ItemType Directory -Force -Path $folder | Out-Null
    @(
        "[Unit]", "Description=Ramify worker", "[Service]", "WorkingDirectory=$checkout",
        "ExecStart=`"$shell`" -NoProfile -File `"$PSCommandPath`"", "KillMode=mixed", "TimeoutStopSec=60s",
        "[Install]", "WantedBy=default.target"
    ) | Set-Content -Path (Join-Path $folder "ramify-worker.service")
    & systemctl --user daemon-reload
    & systemctl --user enable ramify-worker.service
    & loginctl enable-linger
}

$python = Get-Python
$arguments = @([IO.Path]::Combine($checkout, "bin", "agent"), "worker")
if ($Join) { $arguments += @("--join", $Join) }
if ($AtStartup) { Register-AtStartup }

$pauseSeconds = 1
while ($true) {
    $began = Get-Date
    & $python @arguments
    $status = $LASTEXITCODE
    if ($status -in $final) { exit $status }
    if (((Get-Date) - $began).TotalSeconds -ge $quickSeconds) { $pauseSeconds = 1 }
    Write-Warning "the worker ended with status $status; it is started again in $pauseSeconds s"
    Start-Sleep -Seconds $pauseSeconds
    $pauseSeconds = [Math]::Min(2 * $pauseSeconds, $pauseSecondsMax)
}
