{{/* One component's policy.
     port: that it listens on; from: peers, fromAll: anybody, fromComponents: of this release,
     monitored: also Prometheus; to: (port, and component or cidr) that it may reach, with DNS; more:
     further egress rules. */}}
{{- define "galen.policy" }}
{{- $root := .root }}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "galen.fullname" $root }}-{{ .component }}
  labels:
    {{- include "galen.labels" (dict "root" $root "component" .component) | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "galen.selector" (dict "root" $root "component" .component) | nindent 6 }}
  policyTypes: [Ingress, Egress]
  {{- $isMonitored := and .monitored $root.Values.monitoring.enabled }}
  {{- if and .port (or .fromAll .from .fromComponents $isMonitored) }}
  ingress:
    - ports:
        - {protocol: TCP, port: {{ .port }}}
      {{- if not .fromAll }}
      from:
        {{- range .fromComponents }}
        - podSelector:
            matchLabels:
              {{- include "galen.selector" (dict "root" $root "component" .) | nindent 14 }}
        {{- end }}
        {{- with .from }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        {{- if $isMonitored }}
        {{- toYaml $root.Values.networkPolicy.monitoringFrom | nindent 8 }}
        {{- end }}
      {{- end }}
  {{- end }}
  {{- if .to }}
  egress:
    - to:
        - namespaceSelector: {}
          podSelector:
            matchLabels:
              k8s-app: kube-dns
      ports:
        - {protocol: UDP, port: 53}
        - {protocol: TCP, port: 53}
    {{- range .to }}
    - to:
        {{- if .cidr }}
        - ipBlock:
            cidr: {{ .cidr }}
        {{- else }}
        - podSelector:
            matchLabels:
              {{- include "galen.selector" (dict "root" $root "component" .component) | nindent 14 }}
        {{- end }}
      ports:
        - {protocol: TCP, port: {{ .port }}}
    {{- end }}
    {{- with .more }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
{{- end }}
