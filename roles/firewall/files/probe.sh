# Prints what filters packets on this server and what it passes on, for the filter firewall_foreign. Changes nothing.
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
section() { printf '\n== %s\n' "$1"; }

section managers
if command -v ufw >/dev/null && grep -qsi '^ENABLED=yes' /etc/ufw/ufw.conf; then echo ufw; fi
for state in is-active is-enabled; do systemctl $state --quiet firewalld.service 2>/dev/null && echo firewalld; done
section nft
if command -v nft >/dev/null; then nft --json --terse list ruleset; fi
for family in ip ip6; do
    section $family-save
    # asked where no table is there, iptables of old would load its modules
    if command -v ${family}tables-nft-save >/dev/null; then ${family}tables-nft-save 2>/dev/null; fi
done
section legacy-save
for family in ip ip6; do
    if [ -s /proc/net/${family}_tables_names ] && command -v ${family}tables-legacy-save >/dev/null; then ${family}tables-legacy-save; fi
done
for family in ip:4 ip6:6; do
    section kept-${family%:*}
    if systemctl is-enabled --quiet netfilter-persistent.service 2>/dev/null; then cat /etc/iptables/rules.v${family#*:} 2>/dev/null; fi
done
section links
if command -v ip >/dev/null; then ip -details -json link; fi
section forwarding
cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding 2>/dev/null
exit 0
