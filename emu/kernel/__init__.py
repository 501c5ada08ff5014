"""The host kernel's role: ioeventfd, irqfd and what KVM and vhost do in Linux."""
