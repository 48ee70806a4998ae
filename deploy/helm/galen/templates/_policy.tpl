{{/* One component's policy.
     port: that it listens on; from: peers, fromAll: anybody, fromComponents: of this release,
     monitored: also Prometheus; to: (port, and component or cidr) that it may reach, with DNS; traces:
     also the collector; more: further egress rules. */}}
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
    {{- with $root.Values.networkPolicy.dns }}
    - to:
        {{- toYaml .to | nindent 8 }}
      ports:
        - {protocol: UDP, port: {{ .port }}}
        - {protocol: TCP, port: {{ .port }}}
    {{- end }}
    {{- if and .traces $root.Values.tracing.url }}
    - to:
        {{- toYaml $root.Values.networkPolicy.tracesTo | nindent 8 }}
      ports:
        - {protocol: TCP, port: {{ $root.Values.networkPolicy.tracesPort }}}
    {{- end }}
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
